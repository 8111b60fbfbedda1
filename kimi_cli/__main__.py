"""The entry point. Until the program is ready for signals they kill it, without a traceback."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from kimi_cli.cli import main

if __name__ == "__main__":
    main()
