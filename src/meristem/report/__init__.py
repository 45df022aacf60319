"""What people look at: tables in the terminal, the picture of a model's axes, and self-contained HTML reports."""
