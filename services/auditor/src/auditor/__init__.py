"""Flight recorder and continuous proof."""
