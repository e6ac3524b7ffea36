"""What the speed of the system is measured by; `make bench` prints it. Ratios, in one run: absolute times
belong to the machine."""
