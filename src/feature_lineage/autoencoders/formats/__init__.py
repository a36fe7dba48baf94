"""Published autoencoders: a module for each format that they are stored in."""
