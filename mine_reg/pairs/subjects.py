"""Whether one person may stand in training and in test, though the table does not say so."""

import pandas as pd

WITHOUT_SUBJECT = "without_subject"  # of a table's attrs: how many of its rows name no subject


def doubts_about_people(table: pd.DataFrame, images: tuple[str, ...]) -> list[str]:
    """Sentences about a table of `manifest.read_manifest` or `manifest.read_scans`; none when nothing is odd.

    images : columns of files that show a person; one that stands in several splits, where rows have one, is told
    """
    said = []
    if 0 < (lacking := table.attrs.get(WITHOUT_SUBJECT, 0)) < len(table):
        said.append(
            f"subject_id is empty in {lacking} of {len(table)} rows, each of which then counts as a person of its own; "
            "fill it in, so that nobody is in training and in test"
        )
    for _, names in table["subject_id"].groupby(table["subject_id"].str.casefold()):
        if names.nunique() > 1:
            said.append(
                f"subjects {' and '.join(names.unique())} differ in capitals alone, and count as different people; "
                "write one person alike everywhere"
            )
    shown = table.melt(["split"], [*images], value_name="path")
    for path, splits in shown[(shown["path"] != "") & (shown["split"] != "")].groupby("path")["split"]:
        if splits.nunique() > 1:
            said.append(
                f"{path} is in {' and in '.join(splits.unique())}: what is tested has been seen in training; give all "
                "its rows one subject_id, or one split"
            )
    return said
