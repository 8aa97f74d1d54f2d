"""A registered pair in JupyterLab: linked slices in three planes, in up to eight modes, and a 3D view."""

import io
import json
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from ipyniivue import MultiplanarType, NiiVue, ShowRender, SliceType
from matplotlib.figure import Figure

from mine_reg.figures.plots import View
from mine_reg.images.ct import read_ct, read_mask
from mine_reg.images.geometry import averaged, displacement_voxels, on_grid, to_tensor
from mine_reg.images.hounsfield import AIR_HU
from mine_reg.images.overlays import checkerboard, grey, red_cyan
from mine_reg.images.transforms import ITK_FILE, read_transform
from mine_reg.pair_tool.middle_slices import PLANES
from mine_reg.spatial import jacobian_determinant

MODES = (
    "fixed to moved",
    "fixed to moving",
    "fixed red, moved cyan",
    "checkerboard",
    "difference",
    "displacement",
    "Jacobian",
)
INCONSISTENCY = "inconsistency"  # a mode more, where its map is there
COLOUR_BARS = {
    "difference": "fixed - moved / HU",
    "displacement": "length / mm",
    "Jacobian": "Jacobian determinant",
    INCONSISTENCY: "inconsistency / mm",
}
_WINDOW_HU = (-1000.0, 400.0)
_DIFFERENCE_HU = 400.0
_INCONSISTENT_MM = 10.0
_SQUARE = 10  # voxels, of the checkerboard
_ARROWS = 20  # along the longer side of a slice


class RegisteredPair:
    """A pair and its registration on the working grid, which is small enough to be drawn quickly.

    folder : what `mine-reg register` has written
    fixed, moving : the two images; None: where the folder's report says that they are
    fixed_mask, moving_mask : lung masks for the 3D view

    Raises FileNotFoundError when the folder holds no registration or an image is gone. Attributes:

    fixed, moving, moved : (1, D, H, W), HU; ``moving`` is not registered
    displacement : (3, D, H, W), mm, channels z, y, x
    jacobian : determinant (D, H, W), its outermost layer repeated
    inconsistency : mm (1, D, H, W), see `pair_tool.inconsistency`; None where the folder holds no map of it
    """

    def __init__(
        self,
        folder: str | Path,
        fixed: str | Path | None = None,
        moving: str | Path | None = None,
        fixed_mask: str | Path | None = None,
        moving_mask: str | Path | None = None,
    ):
        folder = Path(folder)
        if not (folder / "report.json").is_file():
            raise FileNotFoundError(
                f"{folder} holds no registration; give the folder that `mine-reg register ... --out` has written"
            )
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        fixed, moving = fixed or report["fixed"], moving or report["moving"]
        transform = read_transform(folder / ITK_FILE)
        images = [read_ct(path, str(path)) for path in (fixed, moving)]
        self.grid = sitk.ReadImage(str(folder / "dvf.nii.gz"))
        self.volumes = {
            "fixed": self._on_working_grid(images[0]),
            "moving": self._on_working_grid(images[1]),
            "moved": self._on_working_grid(images[1], transform),
        }
        for name, path, image, through in (
            ("fixed mask", fixed_mask, images[0], None),
            ("moved mask", moving_mask, images[1], transform),
        ):
            if path is not None:
                self.volumes[name] = on_grid(read_mask(path, image, name, "its image"), self.grid, 0, through) > 0.5
        self.fixed, self.moving, self.moved = (to_tensor(self.volumes[name]) for name in ("fixed", "moving", "moved"))
        self.inconsistency = self._inconsistency(folder / "inconsistency.nii.gz")
        self.spacing_mm = self.grid.GetSpacing()[::-1]
        voxels = displacement_voxels(transform, self.grid, self.grid)
        self.jacobian = F.pad(jacobian_determinant(voxels), [1] * 6, mode="replicate")[0]
        self.displacement = voxels[0] * torch.tensor(self.spacing_mm)[:, None, None, None]

    def _inconsistency(self, path: Path) -> torch.Tensor | None:
        if not path.is_file():
            return None
        millimetres = sitk.ReadImage(str(path))  # on a coarser grid than the field
        corners = ([0, 0, 0], [n - 1 for n in self.grid.GetSize()])
        places = [
            millimetres.TransformPhysicalPointToContinuousIndex(self.grid.TransformIndexToPhysicalPoint(corner))
            for corner in corners
        ]
        if not all(-1 <= i <= n for place in places for i, n in zip(place, millimetres.GetSize(), strict=True)):
            raise ValueError(
                f"{path} does not cover {path.parent / 'dvf.nii.gz'}, so it is of another pair; remove it, or register "
                "again"
            )
        return to_tensor(on_grid(millimetres, self.grid, 0))

    def _on_working_grid(self, image: sitk.Image, transform: sitk.Transform | None = None) -> sitk.Image:
        """The image as voxels of the working grid see it, through ``transform``."""
        return on_grid(averaged(image, self.grid.GetSpacing()[0]), self.grid, AIR_HU, transform)


class SliceExplorer(widgets.VBox):
    """Three linked planes through one point of a `RegisteredPair`, which three sliders move.

    ``mode`` chooses what is shown. ``blend`` goes from the fixed (0) to the moved or moving image (1), in the modes
    that show both.
    """

    def __init__(self, pair: RegisteredPair):
        self.pair = pair
        size = pair.fixed.shape[1:]
        self.position = [
            widgets.IntSlider(n // 2, 0, n - 1, description=name, continuous_update=False)
            for name, n in zip(("z (axial)", "y (coronal)", "x (sagittal)"), size, strict=True)
        ]
        self.mode = widgets.Dropdown(
            options=MODES if pair.inconsistency is None else (*MODES, INCONSISTENCY), description="show"
        )
        self.blend = widgets.FloatSlider(0.0, min=0.0, max=1.0, step=0.1, description="blend", continuous_update=False)
        self.crosshair = widgets.Checkbox(True, description="crosshair")
        self.picture = widgets.Image(format="png")
        for control in (*self.position, self.mode, self.blend, self.crosshair):
            control.observe(self._redraw, "value")
        super().__init__(
            [widgets.HBox([self.mode, self.blend, self.crosshair]), widgets.HBox(self.position), self.picture]
        )
        self._redraw()

    def draw(self) -> Figure:
        """Draw the three planes as the controls are set now."""
        figure = Figure(figsize=(9, 3.4), dpi=100, layout="constrained")
        point, shown = [slider.value for slider in self.position], None
        for axis, plane in zip(figure.subplots(1, 3), PLANES, strict=True):
            view = View(plane, point[PLANES.index(plane)], self.pair.spacing_mm)
            shown = self._draw(axis, view)
            if self.crosshair.value:
                _, vertical, horizontal = view.axes
                axis.axhline(point[vertical] * self.pair.spacing_mm[vertical], color="yellow", linewidth=0.5)
                axis.axvline(point[horizontal] * self.pair.spacing_mm[horizontal], color="yellow", linewidth=0.5)
            view.annotate(axis)
            axis.set_title(plane, fontsize=8)
        if self.mode.value in COLOUR_BARS:
            figure.colorbar(shown, ax=figure.axes, label=COLOUR_BARS[self.mode.value], shrink=0.8)
        return figure

    def _redraw(self, *_change) -> None:
        buffer = io.BytesIO()
        self.draw().savefig(buffer, format="png")
        self.picture.value = buffer.getvalue()

    def _draw(self, axis, view: View):
        """Draw one plane in the chosen mode; returns what a colour bar would explain."""
        pair, mode = self.pair, self.mode.value
        fixed, moving, moved = (grey(view.cut(image), _WINDOW_HU) for image in (pair.fixed, pair.moving, pair.moved))
        other = moving if mode == "fixed to moving" else moved
        if mode in ("fixed to moved", "fixed to moving"):
            return view.draw(axis, (1 - self.blend.value) * fixed + self.blend.value * other, vmin=0, vmax=1)
        if mode == "fixed red, moved cyan":
            return view.draw(axis, red_cyan(fixed, moved))
        if mode == "checkerboard":
            return view.draw(axis, checkerboard(fixed, moved, _SQUARE), vmin=0, vmax=1)
        if mode == "difference":
            return view.draw(
                axis, view.cut(pair.fixed - pair.moved), cmap="RdBu_r", vmin=-_DIFFERENCE_HU, vmax=_DIFFERENCE_HU
            )
        if mode == "Jacobian":
            return view.draw(axis, view.cut(pair.jacobian), cmap="RdBu_r", vmin=0, vmax=2)
        if mode == INCONSISTENCY:
            return view.draw(axis, view.cut(pair.inconsistency), cmap="magma", vmin=0, vmax=_INCONSISTENT_MM)
        return self._arrows(axis, view, fixed)

    def _arrows(self, axis, view: View, fixed: np.ndarray):
        """Draw the displacement in the plane, from fixed to moving points, to scale over the fixed image."""
        view.draw(axis, fixed, vmin=0, vmax=1)
        _, vertical, horizontal = view.axes
        step = max(1, max(fixed.shape) // _ARROWS)
        length, u, v = (
            view.cut(values)[step // 2 :: step, step // 2 :: step]
            for values in (
                self.pair.displacement.norm(dim=0),
                self.pair.displacement[horizontal],
                self.pair.displacement[vertical],
            )
        )
        x, y = (values[step // 2 :: step] for values in view.coordinates(fixed.shape))
        return axis.quiver(
            x,
            y,
            u,
            v,
            length,
            angles="xy",
            scale_units="xy",
            scale=1,
            cmap="viridis",
            clim=(0, float(self.pair.displacement.norm(dim=0).max())),
            width=0.006,
        )


class Explorer3D(widgets.VBox):
    """The volumes of a `RegisteredPair` in NiiVue: rendered, or as slices with one crosshair, each with its opacity.

    folder : receives the volumes as files
    height : of the view, in pixels

    NiiVue's code comes with its Python package, so that no network is needed.
    """

    def __init__(self, pair: RegisteredPair, folder: Path, height: int = 420):
        folder.mkdir(parents=True, exist_ok=True)
        looks = {
            "fixed": ("gray", *_WINDOW_HU, 1.0),
            "moved": ("warm", *_WINDOW_HU, 0.0),
            "fixed mask": ("red", 0, 1, 0.0),
            "moved mask": ("blue", 0, 1, 0.0),
        }
        volumes, sliders = [], []
        for name, (colormap, low, high, opacity) in looks.items():
            if name not in pair.volumes:
                continue
            path = folder / f"{name.replace(' ', '_')}.nii.gz"
            sitk.WriteImage(sitk.Cast(pair.volumes[name], sitk.sitkInt16), str(path), True)
            volumes.append(
                {
                    "path": path,
                    "name": path.name,
                    "colormap": colormap,
                    "cal_min": low,
                    "cal_max": high,
                    "opacity": opacity,
                }
            )
            sliders.append(widgets.FloatSlider(opacity, min=0.0, max=1.0, step=0.1, description=name))
        self.viewer = NiiVue(
            height=height,
            multiplanar_show_render=ShowRender.ALWAYS,
            multiplanar_layout=MultiplanarType.GRID,
            crosshair_width=0.5,
        )
        self.viewer.set_radiological_convention(True)  # the patient's right on the left, as in the slices
        self.viewer.load_volumes(volumes)
        self.viewer.set_slice_type(SliceType.MULTIPLANAR)
        self.layout_choice = widgets.ToggleButtons(
            options={"slices and 3D": SliceType.MULTIPLANAR, "3D": SliceType.RENDER}, description="view"
        )
        self.layout_choice.observe(lambda change: self.viewer.set_slice_type(change["new"]), "value")
        for slider, volume in zip(sliders, self.viewer.volumes, strict=True):
            slider.observe(lambda change, volume=volume: setattr(volume, "opacity", change["new"]), "value")
        super().__init__([self.layout_choice, widgets.HBox(sliders), self.viewer])
