"""One file a method, named as RecBole names files."""
