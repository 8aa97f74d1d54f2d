"""Training of AffineNet and DeformNet with Lightning: the loss of eq. 5 and 7, augmentation, restart, best validation model."""

import hashlib
import json
import logging
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pandas as pd
import torch
import torch.nn.functional as F
from dvclive.lightning import DVCLiveLogger
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from tqdm import tqdm

from mine_reg.losses import MutualInformation, mine, mine_loss, soft_dice, total_variation
from mine_reg.models import AffineNet, DeformNet, StatisticNet
from mine_reg.preprocess import load_pair, read_pairs
from mine_reg.spatial import (
    compose_affine,
    sample_at,
    total_displacement,
    transform_points,
    warp,
    warp_mask,
)
from mine_reg.weights import save_network

DISTANCE = "fixed_lung_distance_mm"
VOLUMES = ("fixed", "moving", "fixed_mask", "moving_mask", DISTANCE)
POINTS = ("fixed_points", "moving_points", "spacing_mm")  # for validation alone; pairs differ in their number


class PairDataset(Dataset):
    """Preprocessed pairs of one split as dictionaries of tensors (C, D, H, W); kept in memory when asked to.

    names : attributes of ``preprocess.Pair`` to deliver; those that a pair does not have are left out
    """

    def __init__(self, folder: Path, split: str, names: tuple[str, ...], in_memory: bool):
        self.folder, self.names = folder, names
        self.pair_ids = read_pairs(folder, split)["pair_id"].tolist()
        self.kept = [self._load(pair_id) for pair_id in self.pair_ids] if in_memory else None

    def __len__(self) -> int:
        return len(self.pair_ids)

    def __getitem__(self, index: int) -> dict:
        return self.kept[index] if self.kept else self._load(self.pair_ids[index])

    def _load(self, pair_id: str) -> dict:
        pair = load_pair(self.folder, pair_id)
        values = {name: getattr(pair, name) for name in self.names}
        return {name: value for name, value in values.items() if value is not None}


def shift_and_flip(volume: Tensor, shift: list[int], flips: list[int], outside: float = 0.0) -> Tensor:
    """Augmentation of section 2.4 for (B, C, D, H, W): pad with ``outside`` (air) on one side, crop on the other, flip axes."""
    # negative padding crops, so one call shifts by padding and cropping
    padding = [amount for step in reversed(shift) for amount in (step, -step)]
    return F.pad(volume, padding, value=outside).flip([axis + 2 for axis in flips])


def augment(batch: dict, shift_voxels: int, flip_axes: list[int]) -> dict:
    """One random shift and flip for all volumes (B, C, D, H, W) of a training batch, so that a pair stays a pair."""
    shift = torch.randint(-shift_voxels, shift_voxels + 1, (3,)).tolist()
    flips = [axis for axis in flip_axes if torch.rand(()) < 0.5]
    return {name: shift_and_flip(volume, shift, flips, outside=255.0 if name == DISTANCE else 0.0) for name, volume in batch.items()}


def random_affine(count: int, degrees: float, translation: float, scale: float, device: torch.device) -> Tensor:
    """Random affine maps (count, 3, 4) in normalised coordinates: rotations up to ``degrees`` about each axis, shifts up to
    ``translation`` of the half width, scaling by up to 1 +- ``scale`` along each axis."""

    def uniform(limit: float) -> Tensor:
        return (torch.rand(count, 3, device=device) * 2 - 1) * limit

    angles = uniform(torch.pi * degrees / 180)
    generator = torch.zeros(count, 3, 3, device=device)
    for (i, j), angle in zip(((1, 2), (2, 0), (0, 1)), angles.unbind(1), strict=True):
        generator[:, i, j], generator[:, j, i] = -angle, angle
    matrix = torch.linalg.matrix_exp(generator) * (1 + uniform(scale))[:, None]
    return torch.cat([matrix, uniform(translation)[:, :, None]], dim=2)


class RegistrationTraining(L.LightningModule):
    """What AffineNet and DeformNet share: MINE and Dice at random voxels, one Adam for network and T, validation by lung Dice.

    network : what is trained; statistic : the T that is trained with it
    cfg : the section ``affinenet`` or ``deformnet`` of params.yaml, with ``loss`` one of ``miregnet`` (eq. 5) and
        ``midiceregnet`` (eq. 7)
    """

    def __init__(self, network: torch.nn.Module, statistic: StatisticNet, cfg: SimpleNamespace):
        super().__init__()
        self.network, self.statistic, self.cfg = network, statistic, cfg
        self.skipped = 0

    def register(self, fixed: Tensor, moving: Tensor) -> tuple[Tensor, Tensor | None]:
        """theta and DVF (or None) for images (B, 1, D, H, W)."""
        raise NotImplementedError

    def training_step(self, batch: dict, _index: int) -> Tensor:
        batch = self.working_size(augment(batch, self.cfg.shift_voxels, self.cfg.flip_axes))
        theta, dvf = self.register_training(batch)
        information, dice = self.similarity(batch, theta, dvf, self.cfg.samples)
        loss = self.cfg.lambda_mine * mine_loss(information, self.cfg.centring)
        log = {"mine": information.estimate.mean(), "log_partition": information.log_partition.mean(), "dice": dice}
        if self.cfg.loss == "midiceregnet":
            loss = loss - self.cfg.lambda_dice * dice
        if dvf is not None:
            log["tv"] = total_variation(dvf, batch["fixed"].shape[2:])
            loss = loss + self.cfg.mu * log["tv"]
        log["loss"] = loss
        self.log_dict({f"train_{name}": value.detach() for name, value in log.items()}, on_step=False, on_epoch=True,
                      batch_size=len(batch["fixed"]))
        return loss

    def working_size(self, batch: dict) -> dict:
        """The volumes of a batch at the size that the loss sees: as they are."""
        return batch

    def register_training(self, batch: dict) -> tuple[Tensor, Tensor | None]:
        """`register` for the images of a training batch, with a number of passes from `draw_passes`."""
        raise NotImplementedError

    def draw_passes(self) -> int:
        """1 to the network's number of passes: the first must learn from images far apart, the last from images close together."""
        return int(torch.randint(1, self.network.passes + 1, ()))

    def similarity(self, batch: dict, theta: Tensor, dvf: Tensor | None, samples: int) -> tuple[MutualInformation, Tensor]:
        """MINE (eq. 4) and soft Dice (eq. 6) at ``samples`` random voxels of the fixed grid.

        The moving image is sampled at those voxels only, once, through the composed map. The region never depends on the
        transform, which could otherwise raise the estimate by choosing what to look at.
        """
        size = batch["fixed"].shape[2:]
        chosen = self.draw_voxels(batch, samples)
        points = torch.stack([chosen // (size[1] * size[2]), chosen // size[2] % size[1], chosen % size[2]], dim=-1).float()
        volumes = torch.cat([batch["moving"], batch["moving_mask"]], dim=1)
        moved, moved_mask = sample_at(volumes, transform_points(points, size, theta, dvf)).split(1, dim=-1)
        fixed, fixed_mask = (batch[name].flatten(1).gather(1, chosen) for name in ("fixed", "fixed_mask"))
        return mine(self.statistic, moved, fixed[..., None]), soft_dice(moved_mask[..., 0], fixed_mask)

    def draw_voxels(self, batch: dict, samples: int) -> Tensor:
        """Flat indices (B, n) of random voxels of each fixed grid, none of them twice, n at most ``samples``.

        With ``region_mm`` they lie at most so far from the lungs that a threshold finds in the fixed image: the lungs, the
        diaphragm and the wall next to them, but not the trunk and table, which do not breathe and outnumber them.
        """
        distance = batch[DISTANCE].flatten(1)
        inside = torch.ones_like(distance, dtype=torch.bool) if self.cfg.region_mm is None else distance <= self.cfg.region_mm
        count = min(samples, int(inside.sum(dim=1).min()))
        indices = (torch.nonzero(row)[:, 0] for row in inside)
        return torch.stack([index[torch.randperm(len(index), device=index.device)[:count]] for index in indices])

    def validation_step(self, batch: dict, _index: int) -> None:
        size = batch["fixed"].shape[2:]
        theta, dvf = self.register(batch["fixed"], batch["moving"])
        information, _ = self.similarity(batch, theta, dvf, size.numel())
        moved_mask = warp_mask(batch["moving_mask"], total_displacement(theta, dvf, size))
        log = {"mine": information.estimate.mean(), "dsc": soft_dice(moved_mask.flatten(1), batch["fixed_mask"].flatten(1))}
        if "moving_points" in batch and "fixed_points" in batch:
            error = transform_points(batch["fixed_points"], size, theta, dvf) - batch["moving_points"]
            log["tre_mm"] = (error * torch.stack(batch["spacing_mm"], dim=-1)).norm(dim=-1).mean()
        self.log_dict({f"val_{name}": value for name, value in log.items()}, batch_size=1, sync_dist=True)

    def configure_optimizers(self) -> dict:
        optimiser = torch.optim.Adam(
            [{"params": self.network.parameters(), "lr": self.cfg.learning_rate},
             {"params": self.statistic.parameters(), "lr": self.cfg.statistic_learning_rate}],
            weight_decay=self.cfg.weight_decay,
        )
        steps = self.trainer.estimated_stepping_batches
        warmup_steps = min(self.cfg.warmup_steps, steps // 2)
        warmup = torch.optim.lr_scheduler.LinearLR(optimiser, 0.01, total_iters=warmup_steps)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps - warmup_steps)
        schedule = torch.optim.lr_scheduler.SequentialLR(optimiser, [warmup, decay], [warmup_steps])
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, _batch: dict, _index: int) -> None:
        # random numbers depend on seed and step alone, so a resumed run draws what an uninterrupted one would
        torch.manual_seed(self.cfg.seed * 1_000_003 + self.global_step)

    def on_before_optimizer_step(self, _optimiser: torch.optim.Optimizer) -> None:
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if not all(torch.isfinite(g).all() for g in gradients):
            for parameter in self.parameters():
                parameter.grad = None  # Adam passes over parameters without a gradient
            self.skipped += 1


class AffineTraining(RegistrationTraining):
    """Trains AffineNet; the moving image may be given a random affine map to widen the capture range (our addition)."""

    def __init__(self, cfg: SimpleNamespace):
        super().__init__(AffineNet(cfg.channels, cfg.largest_size, cfg.passes), StatisticNet(cfg.statistic_width), cfg)

    def working_size(self, batch: dict) -> dict:
        """Averaged down as AffineNet sees them: coarse images have a wider capture range, and cost less."""
        return {name: self.network.averaged_down(volume) for name, volume in batch.items()}

    def register(self, fixed: Tensor, moving: Tensor, passes: int | None = None) -> tuple[Tensor, None]:
        return self.network.register(fixed, moving, passes), None

    def register_training(self, batch: dict) -> tuple[Tensor, None]:
        fixed, moving, limits = batch["fixed"], batch["moving"], self.cfg.random_affine
        passes = self.draw_passes()
        if not any(limits.values()):
            return self.register(fixed, moving, passes)
        given = random_affine(len(fixed), limits["degrees"], limits["translation"], limits["scale"], fixed.device)
        shown = warp(moving, total_displacement(given, None, fixed.shape[2:]))
        # M'(A x) = M(given(A x)): the original moving image is still sampled only once for the loss
        return compose_affine(given, self.network.register(fixed, shown, passes)), None


class DeformTraining(RegistrationTraining):
    """Trains DeformNet on F and M(phi_A), with phi_A from a trained AffineNet that stays as it is (section 2.4).

    statistic : the T of AffineNet's training, which goes on learning: a new one would at first lead DeformNet nowhere
    """

    def __init__(self, cfg: SimpleNamespace, affinenet: AffineNet, statistic: StatisticNet):
        super().__init__(DeformNet(cfg.channels, cfg.first_stride, cfg.passes), statistic, cfg)
        self.affinenet = affinenet.eval().requires_grad_(False)

    def register(self, fixed: Tensor, moving: Tensor, passes: int | None = None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            theta = self.affinenet.register(fixed, moving)
        return theta, self.network.register(fixed, moving, theta, passes)

    def register_training(self, batch: dict) -> tuple[Tensor, Tensor]:
        return self.register(batch["fixed"], batch["moving"], self.draw_passes())


class Progress(Callback):
    """One plain bar over all steps and a line for each validation, readable in a terminal, a notebook and a log."""

    def on_train_start(self, trainer: L.Trainer, _module: L.LightningModule) -> None:
        self.bar = tqdm(total=trainer.estimated_stepping_batches, initial=trainer.global_step, desc="training", unit="step", mininterval=5)

    def on_train_batch_end(self, _trainer: L.Trainer, *_args) -> None:
        self.bar.update()

    def on_validation_epoch_end(self, trainer: L.Trainer, _module: L.LightningModule) -> None:
        metrics = "  ".join(f"{name} {float(value):.4f}" for name, value in trainer.callback_metrics.items())
        tqdm.write(f"step {trainer.global_step:5d}  {metrics}")

    def on_train_end(self, _trainer: L.Trainer, _module: L.LightningModule) -> None:
        self.bar.close()


def fit(module: RegistrationTraining, pairs: Path, out: Path, work: Path, curves: Path) -> dict:
    """Train ``module`` on the preprocessed ``pairs`` and leave the best validation model in ``out``.

    out : receives ``weights.safetensors``, ``statistic.safetensors`` and ``settings.json``
    curves : receives the learning curves that DVCLive logged
    work : checkpoints live here until the training is complete; an interrupted run with the same settings, data and first
        weights (those of the AffineNet below a DeformNet among them) goes on from the last one, and draws the same random
        numbers as an uninterrupted run

    Returns the validation metrics of the restored model. Raises ValueError when a split is empty or the last
    epoch would not be validated.
    """
    cfg = module.cfg
    if cfg.epochs % cfg.validate_every:
        raise ValueError(f"epochs ({cfg.epochs}) must be a multiple of validate_every ({cfg.validate_every})")
    loaders = {}
    for split, names in {"train": VOLUMES, "validation": VOLUMES + POINTS}.items():
        data = PairDataset(pairs, split, names, cfg.in_memory)
        if not len(data):
            raise ValueError(f"{pairs / 'pairs.csv'} has no pair in split {split!r}; give it at least one")
        training = split == "train"
        loaders[split] = DataLoader(
            data, cfg.batch_size if training else 1, num_workers=cfg.loader_workers, persistent_workers=cfg.loader_workers > 0,
            sampler=DistributedSampler(data, num_replicas=1, rank=0, shuffle=training, seed=cfg.seed),
        )

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # hardware and advertisements at every start
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty|.*does not have many workers|.*in eval mode")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*|Starting from v1.9.0")  # Lightning's own use of torch
    work = work / _fingerprint(module, pairs)
    last = work / "last.ckpt"
    if not last.exists():
        shutil.rmtree(work, ignore_errors=True)
    # saved after the epoch, not after its validation: Lightning would resume the latter in the middle of the epoch
    when = {"every_n_epochs": cfg.validate_every, "save_on_train_epoch_end": True, "enable_version_counter": False}
    best = ModelCheckpoint(work, filename="best", monitor="val_dsc", mode="max", **when)
    newest = ModelCheckpoint(work, filename="last", **when)
    logger = DVCLiveLogger(dir=str(work / "curves"), save_dvc_exp=False, dvcyaml=None, report=None, resume=last.exists())
    trainer = L.Trainer(
        max_epochs=cfg.epochs, accelerator=cfg.accelerator, devices=1, precision=cfg.precision,
        gradient_clip_val=cfg.gradient_clip, check_val_every_n_epoch=cfg.validate_every, num_sanity_val_steps=0,
        callbacks=[best, newest, Progress()], logger=logger, enable_progress_bar=False, enable_model_summary=False,
        log_every_n_steps=1, default_root_dir=work,
    )
    if last.exists():
        state = torch.load(last, weights_only=False)
        loaders["train"].sampler.set_epoch(state["epoch"] + 1)  # Lightning makes the first order before it says the epoch
        _drop_rows_after(work / "curves", state["global_step"])
    trainer.fit(module, loaders["train"], loaders["validation"], ckpt_path=last if last.exists() else None)
    module.load_state_dict(torch.load(best.best_model_path, weights_only=False)["state_dict"])

    out.mkdir(parents=True, exist_ok=True)
    save_network(module.network, module.statistic, vars(cfg), out)
    shutil.copytree(work / "curves", curves, dirs_exist_ok=True)
    result = {"val_dsc": float(best.best_model_score), "skipped_steps": module.skipped}
    shutil.rmtree(work)
    return result


def _fingerprint(module: RegistrationTraining, pairs: Path) -> str:
    digest = hashlib.sha256(json.dumps(vars(module.cfg), sort_keys=True).encode())
    digest.update((pairs / "pairs.csv").read_bytes())
    for value in module.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    return digest.hexdigest()[:16]


def _drop_rows_after(curves: Path, step: int) -> None:
    """Rows written between the last checkpoint and the interruption will be written again."""
    for path in curves.rglob("*.tsv"):
        table = pd.read_csv(path, sep="\t")
        table[table["step"] <= step].to_csv(path, sep="\t", index=False)
