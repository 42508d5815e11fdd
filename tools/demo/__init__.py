"""`billing demo`: three hospitals live a day on the embedded mesh, and every promise is checked at the end."""
