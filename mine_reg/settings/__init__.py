"""Where every notebook starts: the study's numbers (`params`, whose `values` have types and ranges), its `places`, and
the `names` that papermill may pass."""

from mine_reg.settings.names import assigned, check_papermill_names
from mine_reg.settings.params import LOSSES, SOURCES, read_params, settings
from mine_reg.settings.places import input_path, output_folder, root
from mine_reg.settings.values import NAMES

__all__ = [
    "LOSSES",
    "NAMES",
    "SOURCES",
    "assigned",
    "check_papermill_names",
    "input_path",
    "output_folder",
    "read_params",
    "root",
    "settings",
]
