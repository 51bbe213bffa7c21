"""The refresh protocol: a pure core that decides, and the driver that performs what it asks for."""
