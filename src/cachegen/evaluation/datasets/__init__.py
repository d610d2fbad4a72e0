"""What methods are compared on: contexts, and what is read or asked behind them."""
