"`python -m reidbench.methods.di_reid resolution`: make a DDGAN that ships."
from reidbench.methods.baseline import ship_from_terminal
from reidbench.methods.di_reid.training import ship

if __name__ == "__main__":
    ship_from_terminal(ship, "DDGAN")
