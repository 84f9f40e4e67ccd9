# Completion of kvm-exit-exporter. `make completion` writes this file from the program's command line.
# shellcheck shell=bash
_kvm_exit_exporter() {
	local current=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command="" word
	# readline splits --flag=value into three words.
	if [[ $current == = ]]; then
		current=""
	elif [[ $before == = ]]; then
		before=${COMP_WORDS[COMP_CWORD - 2]}
	fi
	for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
		case $word in serve | demo | top | check | record | replay) command=$word && break ;; esac
	done
	COMPREPLY=()
	local flags words="" files=""
	case $command in
	serve)
		flags="-h --help --config.file --config.check --web.listen-address --web.telemetry-path --web.config.file --web.max-requests --web.host-names --web.enable-lifecycle --log.level --log.format --collect-interval --linger"
		case $before in
		--config.file | --web.config.file) files=-f flags="" ;;
		--web.listen-address | --web.telemetry-path | --web.max-requests | --web.host-names | --collect-interval | --linger) flags="" ;;
		--log.level) words="debug info warn error" flags="" ;;
		--log.format) words="logfmt json" flags="" ;;
		esac
		;;
	demo)
		flags="-h --help --config.file --config.check --web.listen-address --web.telemetry-path --web.config.file --web.max-requests --web.host-names --web.enable-lifecycle --log.level --log.format --collect-interval --linger --speed --recording"
		case $before in
		--config.file | --web.config.file | --recording) files=-f flags="" ;;
		--web.listen-address | --web.telemetry-path | --web.max-requests | --web.host-names | --collect-interval | --linger | --speed) flags="" ;;
		--log.level) words="debug info warn error" flags="" ;;
		--log.format) words="logfmt json" flags="" ;;
		esac
		;;
	top)
		flags="-h --help -i --interval --plain -b --json --csv -p --pid -t --tid --vm --vcpu --reason --no-idle --userspace --sort --limit --source --url --ca-file --certificate-file --login-file --config.file"
		case $before in
		-i | --interval | -p | --pid | -t | --tid | --vm | --vcpu | --reason | --limit | --url) flags="" ;;
		--sort) words="time count avg p50 p99 max wait sleep vmm vm reason" flags="" ;;
		--source) words="auto own exporter" flags="" ;;
		--ca-file | --certificate-file | --login-file | --config.file) files=-f flags="" ;;
		esac
		;;
	check)
		flags="-h --help --config.file"
		case $before in
		--config.file) files=-f flags="" ;;
		esac
		;;
	record)
		flags="-h --help --events -p --pid --vm --ring-size --force --config.file"
		case $before in
		--events | -p | --pid | --vm | --ring-size) flags="" ;;
		--config.file) files=-f flags="" ;;
		*) [[ $current == -* ]] || files=-f ;;
		esac
		;;
	replay)
		flags="-h --help --json --csv -p --pid -t --tid --vm --vcpu --reason --no-idle --userspace --sort --limit --config.file"
		case $before in
		-p | --pid | -t | --tid | --vm | --vcpu | --reason | --limit) flags="" ;;
		--sort) words="time count avg p50 p99 max wait sleep vmm vm reason" flags="" ;;
		--config.file) files=-f flags="" ;;
		*) [[ $current == -* ]] || files=-f ;;
		esac
		;;
	*)
		flags="-h --help --version" words="serve demo top check record replay"
		;;
	esac
	if [[ $files ]]; then
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen "$files" -- "$current")
	else
		[[ $current != -* ]] || words=$flags
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
	fi
}
complete -F _kvm_exit_exporter kvm-exit-exporter
