"""How fast the plugin is: measured beside RecBole's own path and beside what one would use instead."""
