"""How good a search is: rankings held against labels, with figures, intervals and reports."""
