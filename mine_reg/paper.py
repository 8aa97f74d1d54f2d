"""What the paper printed: Table 1 of Huang et al., 30 test pairs, lungs."""

import re

# The best method of a column is the one that the stars refer to.
TABLE1 = {
    "none": {"dsc": "0.929 ± 0.028", "asd_mm": "2.39 ± 1.21", "hd_mm": "21.16 ± 13.4"},
    "inter_observer": {"dsc": "0.987 ± 0.006", "asd_mm": "0.42 ± 0.17", "hd_mm": "22.76 ± 7.25"},
    "ants": {"dsc": "0.944 ± 0.030 ***", "asd_mm": "0.92 ± 0.58 ***", "hd_mm": "10.39 ± 6.27", "seconds": "707"},
    "miregnet": {"dsc": "0.960 ± 0.009 ***", "asd_mm": "0.70 ± 0.17 ***", "hd_mm": "11.92 ± 6.94", "seconds": "14"},
    "midiceregnet": {"dsc": "0.963 ± 0.007", "asd_mm": "0.64 ± 0.13", "hd_mm": "12.26 ± 7.29 *", "seconds": "14"},
}
BEST = {"dsc": "midiceregnet", "asd_mm": "midiceregnet", "hd_mm": "ants"}


def printed(method: str, metric: str) -> tuple[float, float, str]:
    """Mean, SD and stars of a cell; NaN, NaN and "" where the paper has none."""
    mean, sd, marks = re.fullmatch(r"([\d.]*)(?: ± ([\d.]+))? ?(\**)", TABLE1.get(method, {}).get(metric, "")).groups()
    return float(mean or "nan"), float(sd or "nan"), marks
