from bcq_exp.train import main

main()
