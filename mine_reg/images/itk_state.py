"""What SimpleITK takes from the process or keeps for it: the locale, the number of threads, whether it warns."""

import ctypes
import locale
from collections.abc import Iterator
from contextlib import contextmanager

import SimpleITK as sitk

from mine_reg.storage.borrowing import Borrowed

_PROCESS = sitk.ProcessObject

one_itk_thread = Borrowed(  # for one of several processes that share the cores
    _PROCESS.GetGlobalDefaultNumberOfThreads, _PROCESS.SetGlobalDefaultNumberOfThreads, 1
)
no_itk_warnings = Borrowed(_PROCESS.GetGlobalWarningDisplay, _PROCESS.SetGlobalWarningDisplay, False)


@contextmanager
def decimal_point() -> Iterator[None]:
    """Numbers in files have a decimal point, for this thread alone, whatever the locale of the process.

    Where it writes a comma, as in German, ITK reads 0 for the 0.75 of a NRRD header and writes ``(0,75,0,0)``, which
    nobody can read.
    """
    if locale.localeconv()["decimal_point"] == ".":
        yield
        return
    libc = ctypes.CDLL(None)
    for name, arguments in (("uselocale", 1), ("duplocale", 1), ("freelocale", 1)):
        getattr(libc, name).argtypes = [ctypes.c_void_p] * arguments
        getattr(libc, name).restype = ctypes.c_void_p
    libc.newlocale.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p]
    libc.newlocale.restype = ctypes.c_void_p
    before = libc.uselocale(None)
    # as it is, but for numbers; setlocale would change it under the other threads too
    pointed = libc.newlocale(1 << locale.LC_NUMERIC, b"C", libc.duplocale(before))
    libc.uselocale(pointed)
    try:
        yield
    finally:
        libc.uselocale(before)
        libc.freelocale(pointed)
