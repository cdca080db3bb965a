"`python -m reidbench.methods.di_reid resolution`: make a DDGAN that ships."
import sys


def main():
    from reidbench.methods.di_reid.training import ship

    if len(sys.argv) != 2:
        sys.exit("which DDGAN? python -m reidbench.methods.di_reid resolution (or illumination), from the root of a checkout")
    try:
        print(ship(sys.argv[1]).record.metrics)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
