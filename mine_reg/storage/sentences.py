"""What a person reads of an exception: one sentence."""

import re
import signal
import sys
import threading
import warnings
from contextlib import contextmanager

# "ITK ERROR: HDF5TransformIOTemplate(0x55a4c1e62f80): ", and what SimpleITK puts before its own
_ITK = re.compile(r"^(sitk::ERROR:\s*|ITK ERROR:\s*)*(\w+\(0x[0-9a-f]+\):\s*)?", re.IGNORECASE)


def one_sentence(error: BaseException) -> str:
    """The reason in one line: file and reason of the system's errors, the last line of ITK's, never an empty one."""
    if isinstance(error, MemoryError):
        return f"there is not enough memory ({str(error) or 'asked for more than is free'}); close other programs"
    if isinstance(error, OSError) and error.filename and error.strerror:  # else "[Errno 2] ..."
        return f"{error.filename}: {error.strerror}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (_ITK.sub("", lines[-1]) if lines else "") or type(error).__name__


@contextmanager
def plain_errors(until_stopped: bool = True):
    """For a command: an error that the user can mend is a sentence on stderr and exit code 1, without a traceback; a
    warning is a sentence there, too. Ctrl-C ends with exit code 130.

    until_stopped : the signals that end a process end it in order, so that nothing half-written stays; Lightning has
        its own way
    """
    before = {}
    if until_stopped and threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
        before = {number: handler for number, handler in before.items() if handler is signal.SIG_DFL}  # not of nohup
    for number in before:
        signal.signal(number, _stop)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _for_users(warnings.showwarning)
            yield
    except ModuleNotFoundError as error:
        if (error.name or "mine_reg").partition(".")[0] == "mine_reg":  # a mistake of ours, no package to install
            raise
        needed = f"this command belongs to the study and needs {error.name}"
        print(f"Error: {needed}, which `pip install 'mine_reg[study]'` brings", file=sys.stderr)
        raise SystemExit(1) from None
    except (ValueError, ArithmeticError, OSError, RuntimeError, MemoryError) as error:
        # a ValueError may list the problems of a whole table
        said = str(error) if isinstance(error, ValueError) and str(error) else one_sentence(error)
        print(f"Error: {said}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number, _frame):
    raise SystemExit(128 + number)


def _for_users(show_others):
    def show(message, category, *where, **how):
        if category is UserWarning:
            print(f"Warning: {message}", file=sys.stderr)
        else:
            show_others(message, category, *where, **how)

    return show
