"""One folder per paper, each with the same inner files; studies never import each other."""
