#!/bin/sh
# Makes the API server's certificate, the authority that it is checked against, and the key that tokens of service
# accounts are signed with.
#
#   certificates.sh FOLDER      (with openssl.cnf in it)
set -eu
cd "$1"
key="-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 7 -config openssl.cnf"
openssl req -x509 $key -keyout ca.key -out ca.crt -subj /CN=ca -extensions ca
openssl req -x509 $key -keyout server.key -out server.crt -subj /CN=kube-apiserver -extensions server -CA ca.crt -CAkey ca.key
openssl genrsa -out accounts.key 2048
