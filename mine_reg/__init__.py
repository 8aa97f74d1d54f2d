"""Mutual information neural estimation for end-to-end registration of lung CT (MIRegNet, MIDiceRegNet); `register` for
one pair."""


def __getattr__(name: str):
    if name == "register":  # on demand: many modules do without SimpleITK, and `mine-reg --help` without torch
        from mine_reg.pair_tool.register import register

        return register
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
