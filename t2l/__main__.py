"""`python -m t2l`: the `t2l` command, for launchers that take a module (torchrun, accelerate)."""

from t2l.cli import main

if __name__ == "__main__":
    main()
