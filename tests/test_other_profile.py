"""`make repro PROFILE=...`: the copy of the study in which another profile runs."""

import subprocess

from ruamel.yaml import YAML


def test_another_profile_runs_in_a_copy_of_its_own(make_study_copy, repository):
    study = make_study_copy(profile="laptop")
    make = ["make", "--no-print-directory", "-f", str(repository / "Makefile"), "copy"]
    copy = study.folder / ".build/smoke"
    (copy / "mine_reg").mkdir(parents=True)
    (copy / "mine_reg/removed_since.py").touch()
    subprocess.run([*make, "PROFILE=smoke"], cwd=study.folder, check=True)
    read = YAML(typ="safe").load
    asked, own = read(copy / "params.yaml"), read(study.folder / "params.yaml")
    assert asked.pop("profile") == "smoke" and own.pop("profile") == "laptop" and asked == own
    own_table = (
        (study.folder / "params.yaml").read_text().replace("data_manifests/example_real_ct.csv", "mine/pairs.csv")
    )
    (study.folder / "params.yaml").write_text(own_table)
    subprocess.run([*make, "PROFILE=smoke"], cwd=study.folder, check=True)
    assert read(copy / "params.yaml")["data"]["manifest"] == f"{study.folder}/mine/pairs.csv"
    assert read(copy / "params.yaml")["data"]["scans"] == "data_manifests/example_scans.csv"
    assert not (copy / "mine_reg/removed_since.py").exists() and (copy / "mine_reg/models.py").is_file()
    study.run("dvc", "repro", "strip", cwd=".build/smoke")
    assert len(list((copy / ".build").glob("*.ipynb"))) == 9 and not (study.folder / "dvc.lock").exists()
    for wrong in ("..", "seeds", "lapptop"):
        done = subprocess.run(
            [*make, f"PROFILE={wrong}"], cwd=study.folder, capture_output=True, text=True, check=False
        )
        assert done.returncode and f"no profile {wrong}" in done.stderr
    assert [path.name for path in (study.folder / ".build").iterdir()] == ["smoke"]
