"""Images of your own: ranking a folder, reading its labels, advice on a strategy."""
