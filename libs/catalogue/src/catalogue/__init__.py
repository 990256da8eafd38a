"""What can be generated and what it costs."""
