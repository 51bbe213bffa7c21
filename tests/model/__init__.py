"""Model tests for the refresh protocol, the refresher, proactive refresh and the change feed, in simulated worlds."""
