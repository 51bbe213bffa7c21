"""Entry point of `python -m zoom_simulator`."""

from zoom_simulator.command_line import simulator

if __name__ == "__main__":
    simulator(prog_name="python -m zoom_simulator")
