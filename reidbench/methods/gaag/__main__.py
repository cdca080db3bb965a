"`python -m reidbench.methods.gaag resolution`: make an adjuster that ships."
from reidbench.methods.baseline import ship_from_terminal
from reidbench.methods.gaag.training import ship

if __name__ == "__main__":
    ship_from_terminal(ship, "adjuster")
