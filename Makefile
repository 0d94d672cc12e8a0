# Each target is a script of a few lines; read the script to know what it does.
.PHONY: demo test test-full check lock cluster clean-cluster images sbom bench docs

demo:           ## the quick start: a model fine-tuned and served on this machine
	scripts/demo
test:           ## everything: install, check, images, cluster, all tests
	scripts/test
test-full:      ## the same with the long campaigns
	scripts/test full
check:          ## format, lint, types, layers, generated files, unit tests
	scripts/install venv
	scripts/check
docs:           ## the documentation as a site in build/site
	scripts/docs
lock:           ## requirement files from requirements/*.in
	scripts/lock
cluster:        ## the local cluster with the images of this checkout
	scripts/cluster
clean-cluster:  ## end it, leave no trace but the caches
	python3 -m cluster down
images:         ## build what changed and push it (REGISTRY=host/path for a cluster of yours)
	scripts/images
sbom:           ## a bill of materials (CycloneDX) of every image, in build/sbom
	scripts/sbom
bench:          ## all benchmarks, one after the other
	scripts/bench
bench-%:        ## one of them: data, quantize, spoiled, scores, serve, train, train.multitask, train.gpu, operator
	scripts/bench $*
