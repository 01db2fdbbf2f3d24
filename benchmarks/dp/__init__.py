"""What a private training step costs: cases, steps of every engine, clocks, memory and the table."""
