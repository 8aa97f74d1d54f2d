"""Fitting a network with Lightning: loading, several devices, restart after an interruption, the best validation
model."""

import json
import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_only
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from tqdm import tqdm

from mine_reg.storage.results import code, digest, is_complete, keep, locked
from mine_reg.training.augmentation import VOLUMES
from mine_reg.training.modules import RegistrationTraining
from mine_reg.training.weights import restore_network, save_network

CURVES = "curves"
# code that decides what a training learns
LEARNED_BY = ("models.py", "losses.py", "spatial.py", "registration.py", "training", "pairs/preprocessed.py")
LEARNED_BY += ("images/geometry.py",)


class PairData(L.LightningDataModule):
    """Training and validation pairs; with several processes each sees its share, in training a new one every epoch.

    training, validation : datasets of dictionaries with tensors (C, D, H, W) named as in `augmentation.VOLUMES`, and,
        for validation where there are points, in `augmentation.VALIDATION_POINTS`
    identity : tells one set of pairs from another, for `fit` to know whether an interrupted training saw the same
    """

    def __init__(self, cfg: SimpleNamespace, training: Dataset, validation: Dataset, identity: bytes):
        super().__init__()
        self.cfg, self.training, self.validation, self.identity, self.first_epoch = (
            cfg,
            training,
            validation,
            identity,
            0,
        )

    def on_after_batch_transfer(self, batch: dict, _index: int) -> dict:
        """Volumes as float32: they may be kept in memory, and sent to the device, as float16 images and uint8 masks."""
        return {name: value.float() if name in VOLUMES else value for name, value in batch.items()}

    def train_dataloader(self) -> DataLoader:
        sampler = DistributedSampler(
            self.training, self.trainer.world_size, self.trainer.global_rank, seed=self.cfg.seed
        )
        sampler.set_epoch(self.first_epoch)  # Lightning makes the first order before it says the epoch
        return self._loader(self.training, self.cfg.batch_size, sampler)

    def val_dataloader(self) -> DataLoader:
        mine = range(self.trainer.global_rank, len(self.validation), self.trainer.world_size)
        return self._loader(self.validation, 1, mine)

    def _loader(self, data: Dataset, batch_size: int, sampler) -> DataLoader:
        workers = self.cfg.loader_workers
        return DataLoader(data, batch_size, sampler=sampler, num_workers=workers, persistent_workers=workers > 0)


class Progress(Callback):
    """One plain bar over all steps and a line for each validation, readable in a terminal, a notebook and a log."""

    def on_train_start(self, trainer: L.Trainer, _module: L.LightningModule) -> None:
        self.bar = tqdm(
            total=trainer.estimated_stepping_batches,
            initial=trainer.global_step,
            desc="training",
            unit="step",
            mininterval=5,
            disable=not trainer.is_global_zero,
        )

    def on_train_batch_end(self, _trainer: L.Trainer, *_args) -> None:
        self.bar.update()

    def on_validation_end(self, trainer: L.Trainer, _module: L.LightningModule) -> None:
        if trainer.is_global_zero:
            values = {
                name: float(value)
                for name, value in trainer.callback_metrics.items()
                if name.startswith(("train_", "val_"))
            }
            tqdm.write(
                f"step {trainer.global_step:5d}  " + "  ".join(f"{name} {value:.4f}" for name, value in values.items())
            )

    def on_train_end(self, _trainer: L.Trainer, _module: L.LightningModule) -> None:
        self.bar.close()


def fit(module: RegistrationTraining, data: PairData, out: Path, work: Path, curves: Path | None = None) -> dict:
    """Train ``module`` on ``data`` and leave the best model (`BestOfSecondHalf`) in ``out``, and in ``module``.

    out : receives ``weights.safetensors``, ``settings.json``, ``fit.json`` (what is returned) and, where the similarity
        is MINE, ``statistic.safetensors``. A model that is there already from the same settings, data, first weights
        (those of the AffineNet below a DeformNet among them) and code is kept, and nothing is trained
    work : checkpoints live here until the training is complete; an interrupted run of the same goes on from the last
        one, and draws the same random numbers as an uninterrupted run, where ``data`` draws none
    curves : receives the learning curves that DVCLive logs; None: none are logged, and DVCLive is not needed

    Under torchrun or SLURM every process calls this; pairs are split among them, gradients averaged, and the first one
    writes.

    Returns ``val_loss``, the validation loss that chose the model (None for the last model of a training whose time was
    up in its first half), and ``skipped_steps``, how many had gradients that were not finite. Raises NotADirectoryError
    for a file in the place of ``out``, ValueError when the last epoch would not be validated, and ArithmeticError for a
    training that has diverged.
    """
    cfg = module.cfg
    if any(place.is_file() for place in (out, *out.parents)):
        raise NotADirectoryError(f"{out} is a file, or lies in one; give a folder for the network")
    if cfg.epochs % cfg.validate_every:
        raise ValueError(f"epochs ({cfg.epochs}) must be a multiple of validate_every ({cfg.validate_every})")
    first_weights = (value.cpu().numpy().tobytes() for value in module.state_dict().values())
    key = digest(vars(cfg), data.identity, curves is not None, *first_weights, *code(*LEARNED_BY))
    if not is_complete(out, key):
        with _quiet_lightning():
            _train(module, data, out, key, work / key[:16], curves is not None)
    restore_network(module.network, getattr(module.similarity, "statistic", None), out)
    if curves is not None and curves != out / CURVES and rank_zero_only.rank == 0:
        keep(curves, key, lambda folder: shutil.copytree(out / CURVES, folder, dirs_exist_ok=True))
    return json.loads((out / "fit.json").read_text(encoding="utf-8"))


def _train(module: RegistrationTraining, data: PairData, out: Path, key: str, work: Path, with_curves: bool) -> None:
    cfg = module.cfg
    # saved after the epoch, not after its validation: Lightning would resume the latter in the middle of the epoch
    when = {"every_n_epochs": cfg.validate_every, "save_on_train_epoch_end": True, "enable_version_counter": False}
    best = BestOfSecondHalf(work, filename="best", monitor=module.monitor, mode="min", **when)
    trainer = _trainer(module, work, [best, ModelCheckpoint(work, filename="last", **when), Progress()])

    def save(folder: Path) -> None:
        save_network(module.network, getattr(module.similarity, "statistic", None), vars(cfg), folder)
        score = best.best_model_score
        result = {"val_loss": None if score is None else float(score), "skipped_steps": skipped}
        (folder / "fit.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
        if with_curves:
            shutil.copytree(work / CURVES, folder / CURVES)

    with locked(work) if trainer.is_global_zero else nullcontext():
        last = work / "last.ckpt"
        resumed = _prepare(trainer, data, work, last, with_curves)
        trainer.fit(module, datamodule=data, ckpt_path=last if resumed else None, weights_only=True)
        skipped = int(module.skipped)  # the best model's checkpoint may hold fewer
        path = Path(best.best_model_path or last)  # whose time was up in its first half has its last model alone
        if not path.exists():
            raise ValueError("the training ended before its first validation, so it has no model; give it more time")
        if (chosen := _checkpoint(path)) is None:
            raise ValueError(f"{path} is damaged, or no checkpoint; remove {work} and train again")
        _refuse_diverged(chosen["state_dict"], skipped, trainer.global_step)
        module.load_state_dict(chosen["state_dict"])
        trainer.strategy.barrier()  # all have read before the first one deletes
        if trainer.is_global_zero:
            keep(out, key, save)
            shutil.rmtree(work)
    trainer.strategy.barrier()


def _in_second_half(trainer: L.Trainer) -> bool:
    return 2 * (trainer.current_epoch + 1) > trainer.max_epochs


class BestOfSecondHalf(ModelCheckpoint):
    """The model of least loss among the validations of a training's second half, in which the learning rate decays.

    Before, fields are small, and Parzen's estimate, in fewer nats than MINE's, lets ``mu`` prefer them: of 28 trainings
    two had their least loss at the first validation, and 0.7 and 0.9 mm more of TRE there than in the end.
    """

    def on_train_epoch_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if _in_second_half(trainer):
            super().on_train_epoch_end(trainer, module)


class StopInSecondHalf(EarlyStopping):
    """Ends a training early, by the validations of its second half alone, as `BestOfSecondHalf`."""

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if _in_second_half(trainer):
            super().on_validation_end(trainer, module)


def _refuse_diverged(weights: dict, skipped: int, steps: int) -> None:
    """Raise ArithmeticError for a model that has learnt nothing, rather than keep it as a good one."""
    learnt = [tensor for name, tensor in weights.items() if name.startswith("network.")]  # measures may be NaN
    if not all(bool(torch.isfinite(tensor).all()) for tensor in learnt):
        raise ArithmeticError("the training diverged: weights are no longer finite; lower learning_rate")
    if 2 * skipped > steps:
        raise ArithmeticError(
            f"the training diverged: gradients were not finite in {skipped} of {steps} steps; lower learning_rate or "
            "statistic_learning_rate"
        )


def _trainer(module: RegistrationTraining, work: Path, callbacks: list[Callback]) -> L.Trainer:
    cfg = module.cfg
    if cfg.patience is not None:
        # asked after validations alone: before the first one there is no loss to look at
        stop = StopInSecondHalf(
            module.monitor, mode="min", min_delta=1e-4, patience=cfg.patience, check_on_train_epoch_end=False
        )
        callbacks = [*callbacks, stop]
    several = cfg.devices != 1 or cfg.nodes != 1
    return L.Trainer(
        max_epochs=cfg.epochs,
        accelerator=cfg.accelerator,
        devices=cfg.devices,
        num_nodes=cfg.nodes,
        strategy="ddp_find_unused_parameters_true" if several else "auto",
        precision=cfg.precision,
        gradient_clip_val=cfg.gradient_clip,
        check_val_every_n_epoch=cfg.validate_every,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        default_root_dir=work,
        use_distributed_sampler=False,
    )


def _prepare(trainer: L.Trainer, data: PairData, work: Path, last: Path, with_curves: bool) -> bool:
    """Whether an interrupted training goes on; ``data`` and the learning curves so far are brought to where it
    stopped."""
    state = _checkpoint(last) if last.exists() else None
    resumed = state is not None
    if resumed:
        data.first_epoch = state["epoch"] + 1
    elif last.exists():
        warnings.warn(f"{last} is damaged, or no checkpoint, and is not used; the training starts anew", stacklevel=4)
    if trainer.is_global_zero:
        if resumed:
            (work / CURVES / "metrics.json").unlink(
                missing_ok=True
            )  # a summary, perhaps half-written; DVCLive would read it
            _drop_rows_after(work / CURVES, state["global_step"])
        else:
            shutil.rmtree(work / CURVES, ignore_errors=True)
        if with_curves:
            from dvclive.lightning import DVCLiveLogger

            folder = str(work / CURVES)
            trainer.loggers = [DVCLiveLogger(dir=folder, save_dvc_exp=False, dvcyaml=None, report=None, resume=resumed)]
    return resumed


def _checkpoint(path: Path) -> dict | None:
    """What Lightning has saved; None for anything else.

    Tensors and plain values alone are read: others may be able to write to a shared ``scratch/``, and a pickle can run
    any program.
    """
    try:
        state = torch.load(path, weights_only=True)
    except Exception:  # noqa: BLE001 - whatever is wrong with it
        return None
    return state if isinstance(state, dict) and {"state_dict", "epoch", "global_step"} <= set(state) else None


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without what it says of hardware and of its makers, and warnings about what is as it should be."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with warnings.catch_warnings():
        for message in (
            "Checkpoint directory .* exists and is not empty|.*does not have many workers|.*in eval mode",
            ".*LeafSpec.*|Starting from v1.9.0",  # Lightning's own use of torch
            "The ``compute`` method of metric MeanMetric was called before",  # pairs without points
            "It is recommended to use .*sync_dist=True",  # training means are of the first process
        ):
            warnings.filterwarnings("ignore", message=message)
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.setLevel(level)


def _drop_rows_after(curves: Path, step: int) -> None:
    """Rows written between the last checkpoint and the interruption will be written again; the last may be half a
    row."""
    for path in curves.rglob("*.tsv"):
        rows = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [row for row in rows[1:] if row.endswith("\n") and int(row.split("\t")[0]) < step]
        path.write_text("".join(rows[:1] + kept), encoding="utf-8")
