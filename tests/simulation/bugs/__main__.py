"""`python -m tests.simulation.bugs`: see search.py."""

from tests.simulation.bugs.search import main

if __name__ == "__main__":
    main()
