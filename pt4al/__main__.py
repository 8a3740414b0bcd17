"""The `pt4al` command, also as `python -m pt4al`."""

from pt4al.errors import stop_in_one_line


def main() -> None:
    """Entry point: it can be stopped from here on, for what the command imports takes seconds."""
    stop_in_one_line()
    from pt4al.cli import app

    app()


if __name__ == '__main__':
    main()
