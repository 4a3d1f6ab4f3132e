package meaning

import (
	"strings"
	"testing"
)

func TestS3(t *testing.T) {
	const auth = "Authorization: AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request, SignedHeaders=host;x-amz-date, Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
	const presigned = "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeee"
	is := func(name string) Operation { return Operation{S3, name, "", "photos"} }
	at := func(method, path string) *Request { return req(method+" minio:9000"+path, auth, "") }
	copies := func(method, path string) *Request {
		return req(method+" minio:9000"+path, auth+"\nX-Amz-Copy-Source: /other/patients/alice", "")
	}
	hidden := at("GET", "/photos/alice.jpg")
	hidden.PathHidden = true
	hiddenVirtual := req("GET photos.s3.amazonaws.com/alice.jpg", auth, "")
	hiddenVirtual.PathHidden = true
	list := []example{
		{"in the host's name", req("GET photos.s3.eu-west-1.amazonaws.com/alice.jpg", auth, ""), is("GetObject")},
		{"in the host's name, old", req("HEAD photos.s3-eu-west-1.amazonaws.com:443/a/b", auth, ""), is("HeadObject")},
		{"dual stack", req("GET photos.s3.dualstack.us-west-2.amazonaws.com/?list-type=2", auth, ""), is("ListObjectsV2")},
		{"bucket with dots", req("GET a.s3.b.s3.amazonaws.com/k", auth, ""), Operation{S3, "GetObject", "", "a.s3.b"}},
		{"regional host", req("GET s3.eu-west-1.amazonaws.com/photos/k", auth, ""), is("GetObject")},
		{"unsigned", req("GET photos.S3.amazonaws.com/k", "", ""), is("GetObject")},
		{"unsigned, other service", req("GET shop.example/s3/k", "", ""), Operation{}},
		{"a website on it", req("GET photos.s3-website-us-east-1.amazonaws.com/k", "", ""), Operation{}},
		{"a name with s3 in it", req("GET ms3.example.com/k", "", ""), Operation{}},
		{"the top level", req("GET x.s3/k", "", ""), Operation{}},
		{"presigned", req("GET minio.example:9000/photos/alice.jpg?"+presigned, "", ""), is("GetObject")},
		{"presigned part", req("PUT minio.example:9000/photos/alice.jpg?partNumber=1&uploadId=x&"+presigned, "", ""), is("UploadPart")},
		{"4A", req("GET h/photos/k", "Authorization: AWS4-ECDSA-P256-SHA256 Credential=AKID/20130524/s3/aws4_request, Signature=x", ""), is("GetObject")},
		{"another service of AWS", req("POST h/", "Authorization: AWS4-HMAC-SHA256 Credential=AKID/20130524/us-east-1/dynamodb/aws4_request, Signature=x\nContent-Type: application/x-amz-json-1.0", `{}`), Operation{}},
		{"hidden path", hidden, Operation{S3, "GetObject", "", ""}},
		{"hidden path, open host", hiddenVirtual, is("GetObject")},
		{"a JSON object", req("PUT minio:9000/photos/k", auth+"\n"+asJSON, `{"jsonrpc":"2.0","method":"x","id":1}`), is("PutObject")},
		{"no bucket's name", at("GET", "/a%00b/k"), Operation{S3, "GetObject", "", ""}},
		{"empty segment", at("DELETE", "//photos/k"), Operation{S3, Ambiguous, "", ""}},
		{"two subresources", at("PUT", "/photos/k?acl&tagging"), is(Ambiguous)},
		{"not of that method", at("DELETE", "/photos/k?acl"), is("")},
		{"buckets", at("GET", "/"), Operation{S3, "ListBuckets", "", ""}},
		{"copy", copies("PUT", "/photos/k"), is("CopyObject")},
		{"copy of a part", copies("PUT", "/photos/k?partNumber=1&uploadId=x"), is("UploadPartCopy")},
		{"form", req("POST minio:9000/photos", auth+"\nContent-Type: multipart/form-data; boundary=x", ""), is("PostObject")},
	}
	for line, name := range map[string]string{
		"GET /photos": "ListObjects", "GET /photos/?prefix=patients%2Falice&list-type=2": "ListObjectsV2", "GET /photos?list-type=1": "ListObjects",
		"GET /photos?versions": "ListObjectVersions", "GET /photos?uploads": "ListMultipartUploads", "GET /photos?location=": "GetBucketLocation",
		"HEAD /photos": "HeadBucket", "PUT /photos/": "CreateBucket", "DELETE /photos": "DeleteBucket", "POST /photos?delete": "DeleteObjects",
		"PUT /photos?policy": "PutBucketPolicy", "DELETE /photos?policy": "DeleteBucketPolicy", "GET /photos?policyStatus": "GetBucketPolicyStatus",
		"PUT /photos?publicAccessBlock": "PutPublicAccessBlock", "PUT /photos?acl": "PutBucketAcl", "DELETE /photos?lifecycle": "DeleteBucketLifecycle",
		"PUT /photos?inventory&id=x": "PutBucketInventoryConfiguration", "GET /photos?object-lock": "GetObjectLockConfiguration", "POST /photos": "",
		"GET /photos/a/b?versionId=3&response-content-type=x&x-id=GetObject": "GetObject", "HEAD /photos/k": "HeadObject", "PUT /photos/k?x-id=PutObject": "PutObject",
		"DELETE /photos/k?versionId=3": "DeleteObject", "POST /photos/k?uploads": "CreateMultipartUpload", "PUT /photos/k?partNumber=1&uploadId=x": "UploadPart",
		"POST /photos/k?uploadId=x": "CompleteMultipartUpload", "DELETE /photos/k?uploadId=x": "AbortMultipartUpload", "GET /photos/k?uploadId=x": "ListParts",
		"GET /photos/k?acl": "GetObjectAcl", "DELETE /photos/k?tagging": "DeleteObjectTagging", "PUT /photos/k?legal-hold": "PutObjectLegalHold",
		"POST /photos/k?restore": "RestoreObject", "POST /photos/k?select&select-type=2": "SelectObjectContent", "GET /photos/k?attributes": "GetObjectAttributes",
		"OPTIONS /photos/k": "", "PUT /photos/k?%61cl": "PutObjectAcl",
	} {
		method, path, _ := strings.Cut(line, " ")
		list = append(list, example{line, at(method, path), is(name)})
	}
	check(t, list)
}
