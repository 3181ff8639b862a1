"""`python -m tests.simulation`: see runner.py."""

from tests.simulation.runner import main

if __name__ == "__main__":
    main()
