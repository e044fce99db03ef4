"""What readers see: figures, the paper's claims, the report page and the card of the embedded world."""
