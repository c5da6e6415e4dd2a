"""How a method that is not one loss is trained, and what is added to any trainer."""
