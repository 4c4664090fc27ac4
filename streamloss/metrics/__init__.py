"""The sufficient statistics, one to a file; each offers its `STATISTIC`."""
