"""What a person reads of runs: lists, comparisons, a page to look at."""
