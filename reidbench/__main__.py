"`python -m reidbench`, and what the installed command `reidbench` calls."


def main():
    from reidbench.cli import app

    app(prog_name="reidbench")


if __name__ == "__main__":
    main()
