"""The driver: what is handed out, what is answered to every epoch and failure."""
