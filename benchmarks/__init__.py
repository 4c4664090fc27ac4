"""What streamloss costs, beside the floor and its peers; see `python -m benchmarks --help`."""
