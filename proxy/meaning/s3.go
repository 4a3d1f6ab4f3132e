package meaning

import (
	"net"
	"strings"
)

// signedForS3 reports whether a request is signed for S3: AWS Signature Version 4
// or 4A, in the header or in the query, with "s3" as the service of its scope. Of
// the signature nothing else is read.
func signedForS3(r *Request) bool {
	for _, v := range r.Header["Authorization"] {
		if strings.HasPrefix(v, "AWS4-") && strings.Contains(v, "/s3/aws4_request") {
			return true
		}
	}
	if !strings.Contains(r.Query, "X-Amz-Algorithm=AWS4-") {
		return false
	}
	scope, _ := parameter(r.Query, "X-Amz-Credential")
	return strings.HasSuffix(scope, "/s3/aws4_request")
}

// splitHost returns the bucket in front of the name of an S3 service, and reports
// whether the host is one by its name: a label is "s3" or starts with "s3-".
func splitHost(host string) (bucket string, ok bool) {
	if !strings.Contains(host, "s3") && !strings.Contains(host, "S3") {
		return "", false
	}
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(host)
	end := strings.LastIndexByte(host, '.') // the last label is no service's
	for end > 0 {
		start := strings.LastIndexByte(host[:end], '.') + 1
		label := host[start:end]
		if label == "s3" || strings.HasPrefix(label, "s3-") && !strings.HasPrefix(label, "s3-website") {
			return host[:max(start-1, 0)], true
		}
		end = start - 1
	}
	return "", false
}

func hostOfS3(host string) bool {
	_, ok := splitHost(host)
	return ok
}

// s3 names the operation of the Amazon S3 API, and its bucket. Where the host does
// not name a bucket, it is the first segment of the path.
func s3(r *Request) Operation {
	op := Operation{Protocol: S3}
	path := strings.TrimPrefix(r.Path, "/")
	bucket, _ := splitHost(r.Host)
	level, inPath := levelBucket, false
	switch {
	case bucket != "":
		if path != "" {
			level = levelObject
		}
	case path == "":
		level = levelService
	case path[0] == '/':
		op.Name = Ambiguous // servers clean paths, or do not
		return op
	default:
		var key string
		bucket, key, _ = strings.Cut(path, "/")
		inPath = true
		if key != "" {
			level = levelObject
		}
	}
	if bucket = unescape(bucket); bucketName(bucket) && !(inPath && r.PathHidden) {
		op.Target = fact(bucket)
	}
	op.Name = s3Name(r, level)
	return op
}

// bucketName reports whether s can be the name of a bucket: others could be keys.
func bucketName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return 3 <= len(s) && len(s) <= 255
}

type level uint8

const (
	levelService level = iota
	levelBucket
	levelObject
)

// s3Name returns the operation for a method and the subresource in the query;
// empty where the API has none.
func s3Name(r *Request, at level) string {
	var v verbs
	subs := 0
	for query := r.Query; query != ""; {
		var pair string
		pair, query, _ = strings.Cut(query, "&")
		key, value, _ := strings.Cut(pair, "=")
		sub, ok := subresource(at, unescape(key), value)
		if ok && sub != v {
			v = sub
			subs++
		}
	}
	if subs > 1 {
		return Ambiguous // which one counts is the server's choice
	}
	if subs == 0 {
		v = plainVerbs(at)
		if at == levelBucket && r.Method == "POST" && !r.formUpload() {
			return ""
		}
	}
	switch r.Method {
	case "GET":
		return v.get
	case "HEAD":
		return v.head
	case "PUT":
		if v.copy != "" && len(r.Header["X-Amz-Copy-Source"]) > 0 {
			return v.copy
		}
		return v.put
	case "POST":
		return v.post
	case "DELETE":
		return v.del
	}
	return ""
}

func (r *Request) formUpload() bool {
	for _, v := range r.Header["Content-Type"] {
		if strings.HasPrefix(v, "multipart/form-data") {
			return true
		}
	}
	return false
}

// verbs are the operations of a resource by method; copy is a PUT with a source.
type verbs struct{ get, head, put, copy, post, del string }

func plainVerbs(at level) verbs {
	switch at {
	case levelService:
		return verbs{get: "ListBuckets"}
	case levelBucket:
		return verbs{get: "ListObjects", head: "HeadBucket", put: "CreateBucket", post: "PostObject", del: "DeleteBucket"}
	}
	return verbs{get: "GetObject", head: "HeadObject", put: "PutObject", copy: "CopyObject", del: "DeleteObject"}
}

func subresource(at level, key, value string) (verbs, bool) {
	switch at {
	case levelObject:
		return objectSubresource(key)
	case levelBucket:
		if key == "list-type" && value == "2" {
			return verbs{get: "ListObjectsV2"}, true
		}
		return bucketSubresource(key)
	}
	return verbs{}, false
}

func objectSubresource(key string) (verbs, bool) {
	switch key {
	case "uploadId":
		return verbs{get: "ListParts", put: "UploadPart", copy: "UploadPartCopy", post: "CompleteMultipartUpload", del: "AbortMultipartUpload"}, true
	case "uploads":
		return verbs{post: "CreateMultipartUpload"}, true
	case "acl":
		return verbs{get: "GetObjectAcl", put: "PutObjectAcl"}, true
	case "tagging":
		return verbs{get: "GetObjectTagging", put: "PutObjectTagging", del: "DeleteObjectTagging"}, true
	case "attributes":
		return verbs{get: "GetObjectAttributes"}, true
	case "retention":
		return verbs{get: "GetObjectRetention", put: "PutObjectRetention"}, true
	case "legal-hold":
		return verbs{get: "GetObjectLegalHold", put: "PutObjectLegalHold"}, true
	case "torrent":
		return verbs{get: "GetObjectTorrent"}, true
	case "restore":
		return verbs{post: "RestoreObject"}, true
	case "select":
		return verbs{post: "SelectObjectContent"}, true
	}
	return verbs{}, false
}

func bucketSubresource(key string) (verbs, bool) {
	all := func(noun string) verbs { return verbs{get: "Get" + noun, put: "Put" + noun, del: "Delete" + noun} }
	two := func(noun string) verbs { return verbs{get: "Get" + noun, put: "Put" + noun} }
	switch key {
	case "uploads":
		return verbs{get: "ListMultipartUploads"}, true
	case "versions":
		return verbs{get: "ListObjectVersions"}, true
	case "delete":
		return verbs{post: "DeleteObjects"}, true
	case "location":
		return verbs{get: "GetBucketLocation"}, true
	case "session":
		return verbs{get: "CreateSession"}, true
	case "policyStatus":
		return verbs{get: "GetBucketPolicyStatus"}, true
	case "acl":
		return two("BucketAcl"), true
	case "versioning":
		return two("BucketVersioning"), true
	case "logging":
		return two("BucketLogging"), true
	case "notification":
		return two("BucketNotificationConfiguration"), true
	case "accelerate":
		return two("BucketAccelerateConfiguration"), true
	case "requestPayment":
		return two("BucketRequestPayment"), true
	case "object-lock":
		return two("ObjectLockConfiguration"), true
	case "policy":
		return all("BucketPolicy"), true
	case "cors":
		return all("BucketCors"), true
	case "tagging":
		return all("BucketTagging"), true
	case "website":
		return all("BucketWebsite"), true
	case "encryption":
		return all("BucketEncryption"), true
	case "replication":
		return all("BucketReplication"), true
	case "publicAccessBlock":
		return all("PublicAccessBlock"), true
	case "ownershipControls":
		return all("BucketOwnershipControls"), true
	case "lifecycle":
		return verbs{get: "GetBucketLifecycleConfiguration", put: "PutBucketLifecycleConfiguration", del: "DeleteBucketLifecycle"}, true
	case "analytics", "inventory", "metrics", "intelligent-tiering":
		return configurations(key), true
	}
	return verbs{}, false
}

// configurations are those of which a bucket can have several.
func configurations(key string) verbs {
	noun := map[string]string{
		"analytics": "Analytics", "inventory": "Inventory", "metrics": "Metrics", "intelligent-tiering": "IntelligentTiering",
	}[key]
	return verbs{get: "GetBucket" + noun + "Configuration", put: "PutBucket" + noun + "Configuration", del: "DeleteBucket" + noun + "Configuration"}
}
