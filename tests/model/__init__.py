"""Model tests of the refresh protocol, the refresher, proactive refresh and the change feed, in simulated worlds."""
