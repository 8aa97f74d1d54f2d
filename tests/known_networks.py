"""Networks whose answer to anything is known, and volumes of the phantom on turned grids, for tests of registration."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from scipy.spatial.transform import Rotation

from mine_reg.images.geometry import to_image
from mine_reg.models import AffineNet, DeformNet
from mine_reg.synthetic.phantom import grid_origin
from mine_reg.training.weights import save_network, save_weights_file

SIZE, SPACING = (56, 56, 56), 6.0
THETA = torch.tensor([[1.03, 0.02, 0.0, 0.05], [0.0, 0.98, 0.01, -0.02], [0.02, 0.0, 1.01, 0.03]])
DISPLACEMENT = torch.tensor([0.6, -0.4, 0.8])  # voxels of whatever grid DeformNet sees, z, y, x


def known_weights(folder: Path, theta: torch.Tensor = THETA, displacement: torch.Tensor = DISPLACEMENT) -> Path:
    """A file of networks that answer theta and, inside the grid, a displacement to anything."""
    affinenet, deformnet = AffineNet((4, 8)), DeformNet((4, 8))
    with torch.no_grad():
        affinenet.parameters_head.bias.copy_(((theta - torch.eye(3, 4)) / 0.1).flatten())
        deformnet.field.weight.zero_()
        deformnet.field.bias.copy_(displacement)
    save_network(
        affinenet,
        None,
        {
            "channels": [4, 8],
            "largest_size": 96,
            "passes": 1,
            "pooling": "moments",
            "last_norm": True,
            "coordinates": False,
        },
        folder / "affinenet",
    )
    save_network(
        deformnet,
        None,
        {"channels": [4, 8], "first_stride": 2, "passes": 1, "smoothing": 0.0, "local_contrast": False},
        folder / "deformnet",
    )
    save_weights_file(folder / "affinenet", folder / "deformnet", folder / "test.safetensors", {"data": "none"})
    return folder / "test.safetensors"


def turned(values: torch.Tensor, shift=(0.0, 0.0, 0.0), angle=0.0, dtype="int16") -> sitk.Image:
    """A volume of the phantom with its axes turned in space, so that anatomy stays where it is, and then shifted as a
    whole."""
    image = to_image(values, (SPACING,) * 3, grid_origin(SIZE, SPACING), dtype=dtype)
    if angle:
        grid = sitk.Image([64, 60, 58], sitk.sitkInt16)
        grid.SetSpacing((5.5, 6.0, 6.5))
        direction = Rotation.from_rotvec([0.0, 0.05, angle]).as_matrix()
        grid.SetDirection(direction.ravel())
        grid.SetOrigin((-direction @ (np.array(grid.GetSize()) - 1) / 2 * np.array(grid.GetSpacing())).tolist())
        image = sitk.Resample(
            image,
            grid,
            sitk.Transform(),
            sitk.sitkNearestNeighbor if dtype == "uint8" else sitk.sitkLinear,
            0 if dtype == "uint8" else -1024,
        )
    image.SetOrigin((np.array(image.GetOrigin()) + shift).tolist())
    return image
