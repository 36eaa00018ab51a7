"""Parts of benches/matrix: media, servers, clients and the comparison of what went in and came out."""
