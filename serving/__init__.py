"""One BentoML service for any family; it imports none of the platform's vendors."""
