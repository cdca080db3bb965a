"`python -m reidbench.methods.gaag resolution`: make an adjuster that ships."
import sys


def main():
    from reidbench.methods.gaag import ship

    if len(sys.argv) != 2:
        sys.exit("which adjuster? python -m reidbench.methods.gaag resolution (or illumination), from the root of a checkout")
    try:
        print(ship(sys.argv[1]).record.metrics)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
