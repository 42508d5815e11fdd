"""What deploying needs beside the service: files generated from the code, and the checks of `make check-deploy`."""
