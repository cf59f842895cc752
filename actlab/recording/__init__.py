"""Recording: from a tensor inside a training loop to rows of counts. The only floor that knows torch."""
