"""`python -m pt4al`."""

from pt4al.cli import app

if __name__ == '__main__':
    app()
