"""Token refresh: the I/O-free protocol, the refresher that runs it, the circuit breaker and the schedule."""
