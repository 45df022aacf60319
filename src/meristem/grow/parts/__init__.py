"""What several growth methods are made of. The methods themselves are the files one folder up."""
